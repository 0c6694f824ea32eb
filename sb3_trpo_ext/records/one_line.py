"""What is quoted from a file that nobody need trust, fit for a terminal."""

LONGEST = 500
"""Characters of a message."""


def one_line(text: str) -> str:
    """
    Cut a message, and take out what would steer a terminal.

    :param text: what was going to be said
    :return: one printable line
    """
    kept = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in kept)
