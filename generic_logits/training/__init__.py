"""Reinforcement, generic targets and distillation."""
