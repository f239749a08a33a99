"""``python -m generic_logits``: the command."""

from generic_logits.cli import main

if __name__ == "__main__":
    main()
