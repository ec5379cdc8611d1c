"""Take a trained model apart and serve it: session, export, back ends, quality gate, memory estimate."""
