"""The run folder: names, locks, atomic facts, metrics that can be cut back."""

import os
import subprocess
import sys

import pytest

from hflab.errors import UserError
from hflab.recipe import load_recipe
from hflab.run_folder import RunFolder, write_atomically


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path, "one", "recipe")
    load_recipe("char_lstm_shakespeare").save(folder.recipe_file)
    return folder


def test_names_are_numbered_when_taken(tmp_path):
    names = [RunFolder.create(tmp_path, None, "recipes/own.yaml").path.name for _ in range(3)]
    assert names == ["own", "own-2", "own-3"]


def test_a_given_name_is_never_reused(run, tmp_path):
    with pytest.raises(UserError, match=r"exists; continue it with --resume .* or give another --run"):
        RunFolder.create(tmp_path, "one", "recipe")


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --output"):
        RunFolder.create(tmp_path / "file", None, "recipe")


def test_opening_something_else_names_the_nearest_run(run, tmp_path):
    with pytest.raises(UserError, match=r"Did you mean .*one"):
        RunFolder.open_existing(tmp_path / "onne")


def test_recipe_round_trip(run):
    assert RunFolder.open_existing(run.path).read_recipe({"training.num_steps": 7}).training.num_steps == 7


def test_a_run_held_by_another_process_is_refused_and_free_when_that_is_killed(run):
    code = (
        "import sys, time; from pathlib import Path; from hflab.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match="in use by another process"), run.locked():
            pass
        holder.kill()
        holder.wait()
    with run.locked():
        pass


def test_facts_keep_what_is_not_replaced(run):
    run.update_facts(status="running", seed=1)
    run.update_facts(status="finished")
    assert run.read_facts() == {"status": "finished", "seed": 1}


def test_metrics_are_cut_back_to_a_checkpoint(run):
    run.append_metrics({"step": 1})
    size = run.metrics_size()
    run.append_metrics({"step": 2})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 3, "lo')  # what a kill in the middle of a line leaves
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]
    run.truncate_metrics(size)
    assert run.read_metrics() == [{"step": 1}]


def test_an_atomic_write_that_fails_leaves_the_old_content(tmp_path):
    file = tmp_path / "file"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) != []
