"""Characters and tokens; knows no model."""
