"""What commands share about the terminal."""


def without_loading_bars() -> None:
    """Turn off the bars by which transformers shows that it reads or writes a file: these models take a moment."""
    from transformers.utils import logging

    logging.disable_progress_bar()
