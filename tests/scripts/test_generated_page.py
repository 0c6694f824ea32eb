"""What the scripts share that write pages."""

from generated_page import with_block


def test_a_block_changes_nothing_else_of_its_page() -> None:
    assert with_block("before\n<a>\nold\n</a>\nafter\n", "<a>\n", "new\n", "</a>\n") == "before\n<a>\nnew\n</a>\nafter\n"
