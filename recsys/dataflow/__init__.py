"""Plan where every embedding table lives and how it is looked up, and run the plan."""
