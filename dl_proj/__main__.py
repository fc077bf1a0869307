"""``python -m dl_proj``: the command ``dl-proj``, without installing it."""

from dl_proj.commands import main

if __name__ == "__main__":
    main()
