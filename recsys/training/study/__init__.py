"""Studies: arms × settings × seeds under one protocol, with paired intervals."""
