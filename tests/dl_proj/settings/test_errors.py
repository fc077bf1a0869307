import pytest

from dl_proj.settings.errors import complain, reason


def test_reason_of_an_error_that_a_library_raises_with_a_message_alone():
    assert reason(PermissionError(13, "Permission denied", "data")) == "permission denied"
    assert reason(PermissionError("No write access")) == "no write access"


@pytest.mark.parametrize("odd", ["\x1b[31m", "\r", "\n", "\0", "\u202e", "\ufeff", "\ud800", "\x85"])
def test_what_would_move_a_cursor_is_written_out(odd, capsys):
    complain((f"c.yaml: a{odd}b: no such setting",))
    (line,) = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert line.isprintable() and line.isascii()
    assert line.replace("\\", "") == f"c.yaml: a{odd!a}b: no such setting".replace("'", "").replace("\\", "")


@pytest.mark.parametrize("piece", ["x", "many words "])
def test_a_complaint_is_short_whatever_came(piece, capsys):
    complain((f"c.yaml: {piece * 5000}",))
    said = capsys.readouterr().err
    assert len(said) < 1300 and said.endswith("...\n") and said.startswith(f"c.yaml: {piece}")


@pytest.mark.parametrize(("mistakes", "lines"), [(1, 1), (20, 20), (21, 21), (3000, 21)])
def test_many_mistakes_are_counted(mistakes, lines, capsys):
    complain(tuple(f"c.yaml: labels.{number}: wrong" for number in range(mistakes)))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    if mistakes > 20:
        assert said[:20] == [f"c.yaml: labels.{number}: wrong" for number in range(20)]
        assert str(mistakes - 20) in said[20]
