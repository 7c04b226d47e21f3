"""The command that measures everything: its steps exist, it goes on after a failure, and it waits for quiet."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_step_is_a_script_that_writes_its_result() -> None:
    from sections import SECTIONS
    from steps import STEPS

    assert len({step.name for step in STEPS}) == len(STEPS) == len(SECTIONS) - 2  # targets share one, GPUs have none
    for step in STEPS:
        for command in step.commands:
            text = (ROOT / command[0]).read_text(encoding="utf-8")
            assert f"{step.name}.json" in text
            flags = [word for word in command if word.startswith("--")]
            assert all(f'"{flag}"' in text for flag in flags), command


def test_data_is_a_folder_outside() -> None:
    from steps import DATA, Step, argv, with_data

    step = Step("x", (("benchmarks/x.py", "--pictures", "DATA/photos", "DATA/none such"),), 1)
    assert step.missing == [path for path in (DATA / "none such", DATA / "photos") if not path.exists()]
    assert step.shown == "python benchmarks/x.py --pictures DATA/photos DATA/none such"
    assert with_data(" ".join(argv(step.commands[0]))) == step.shown.removeprefix("python ")
    assert (ROOT / argv(step.commands[0])[2]).resolve() == (DATA / "photos").resolve()


def test_what_fails_is_named_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import all as driver
    from steps import Step

    steps = (
        Step("good", (("-c", "pass"),), 2),
        Step("bad", (("-c", "raise SystemExit(3)"), ("-c", "pass")), 3),
        Step("hungry", (("-c", "pass", "DATA/no such folder"),), 4),
        Step("long", (("-c", "pass"),), 100, by_default=False),
    )
    monkeypatch.setattr(driver, "STEPS", steps)
    monkeypatch.setattr(driver, "AFTERWARDS", ())
    monkeypatch.setattr(driver, "wait_until_quiet", lambda: None)
    monkeypatch.setattr(sys, "argv", ["all.py"])
    with pytest.raises(SystemExit, match="failed: bad, hungry; above stands why"):
        driver.main()
    shown = capsys.readouterr().out
    assert "[1/3] good: about 2 min; 9 min to the end" in shown
    assert "[2/3] bad: FAILED" in shown
    assert "no such folder, which is not here" in shown
    assert "long" not in shown


def test_only_what_is_named_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import all as driver

    monkeypatch.setattr(sys, "argv", ["all.py", "int8", "quality", "--list"])
    driver.main()
    lines = capsys.readouterr().out.splitlines()
    assert "benchmarks/int8.py" in lines[0]
    assert all("benchmarks/quality.py" in line for line in lines[1:-1])
    monkeypatch.setattr(sys, "argv", ["all.py", "nonsense"])
    with pytest.raises(SystemExit):
        driver.main()
    assert "no step is called nonsense; known are export, export_rewrites, " in capsys.readouterr().err


def test_it_waits_until_the_machine_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    import all as driver

    loads = [1.5, 0.9, 0.01]
    driver.wait_until_quiet(lambda: loads.pop(0))
    assert loads == []
    assert capsys.readouterr().out == ""
    driver.wait_until_quiet(lambda: 1.5, patience=0)
    assert "1.5 cores are busy with other work; these figures are not to be published" in capsys.readouterr().out
    driver.wait_until_quiet(lambda: None)
    assert "does not say" in capsys.readouterr().out


def test_how_busy_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import all as driver

    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2\n")
    after = "cpu  190 0 60 1700 50 0 0 0 9 9\n"  # 100 ticks of work, 900 of none
    monkeypatch.setattr(driver.time, "sleep", lambda _: stat.write_text(after))
    monkeypatch.setattr(driver.os, "cpu_count", lambda: 4)
    assert driver.busy_cores(stat) == pytest.approx(0.4)
    assert driver.busy_cores(tmp_path / "none") is None
