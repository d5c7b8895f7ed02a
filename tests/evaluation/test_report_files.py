"""Where a report goes: found out beforehand, whole or not there afterwards."""

import os
from pathlib import Path

import pytest

from hflab.errors import UserError
from hflab.evaluation.report_files import check_report_file, write_report_file

ENDINGS = (".md", ".html")


def test_a_good_place_is_accepted_and_left_as_it_was(tmp_path):
    check_report_file(tmp_path / "deep" / "er" / "report.html", ENDINGS)
    check_report_file(tmp_path / "REPORT.MD", ENDINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.txt"])
def test_another_ending_is_refused_with_those_that_are_allowed(tmp_path, name):
    with pytest.raises(UserError, match=r"must end in \.md or \.html"):
        check_report_file(tmp_path / name, ENDINGS)


def test_folders_and_what_lies_below_a_file_are_refused(tmp_path):
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "folder.md", tmp_path / "file" / "report.md"):
        with pytest.raises(UserError, match="another --report FILE"):
            check_report_file(path, ENDINGS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_changed_is_refused(tmp_path):
    kept = tmp_path / "kept.md"
    kept.write_text("kept")
    kept.chmod(0o444)
    with pytest.raises(UserError, match="may not be changed"):
        check_report_file(kept, ENDINGS)
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="Permission denied"):
        check_report_file(tmp_path / "new.md", ENDINGS)


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="needs a file system that nobody can write into")
def test_a_file_system_that_cannot_be_written_into_is_refused():
    with pytest.raises(UserError, match="cannot be written"):
        check_report_file(Path("/proc/report.md"), ENDINGS)


def test_a_report_is_whole_or_not_there(tmp_path):
    path = write_report_file(tmp_path / "new" / "report.md", "first")
    assert write_report_file(path, "speaker \udce9").read_text(encoding="utf-8") == "speaker \\udce9"
    (tmp_path / "taken.md").mkdir()
    with pytest.raises(UserError, match="another --report"):
        write_report_file(tmp_path / "taken.md", "second")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["new", "report.md", "taken.md"]
