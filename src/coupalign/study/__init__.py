"""Ablation studies: which trainings, each in a process of its own, and what they tell apart. Importing this, and all of
it but ``coupalign.study.child`` and ``coupalign.study.alignment``, needs no MindSpore."""
