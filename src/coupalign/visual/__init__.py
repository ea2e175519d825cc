"""Pictures of training runs, evaluations and predictions."""
