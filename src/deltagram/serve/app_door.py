"""Whether the door is open, and how many requests are inside."""


class Door:
    """Requests between their first byte and the last of their answer; `closing` lets no more in.

    Used from the event loop's thread alone.
    """

    def __init__(self) -> None:
        self.closing = False
        self.inside = 0
