"""``python -m clvq_lens`` is the command line, so that ``torchrun -m clvq_lens`` works too."""

from clvq_lens.cli import main

if __name__ == "__main__":
    main()
