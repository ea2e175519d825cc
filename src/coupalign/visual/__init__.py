"""Pictures of runs and of what models do. Importing this needs no MindSpore."""
