"""Exports that others made: each file and folder imports or is refused for a reason; none does anything else."""

from datetime import UTC
from pathlib import Path

import pytest

from errors import DataRefused
from tests.histories import read_records
from training.history import import_messages
from training.sources.options import Options
from training.sources.registry import SOURCES

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
FOLDERS = {
    "discord": "discord", "google_chat": "google-chat", "google_voice": "google-voice", "imessage": "imessage",
    "messenger_instagram": "messenger", "signal": "signal", "slack": "slack", "sms": "sms", "telegram": "telegram",
    "wechat_csv": "csv", "whatsapp": "whatsapp",
}  # fmt: skip
PATHS = sorted(path for path in FIXTURES.rglob("*") if path.name != "README.md") if FIXTURES.is_dir() else []


@pytest.mark.skipif(not PATHS, reason="samples of others lie outside the repository")
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_sample_imports_or_is_refused(folder: str, tmp_path: Path) -> None:
    """As what it is, and as whatever ``auto`` takes it for."""
    paths = [path for path in PATHS if path.relative_to(FIXTURES).parts[0] == folder]
    outcomes = [outcome(source, path, tmp_path) for path in paths for source in ("auto", FOLDERS[folder])]

    assert paths and set(outcomes) <= {"imported", "refused"}
    assert "imported" in outcomes or folder == "google_chat"  # which holds single values, no export


def outcome(source: str, path: Path, folder: Path, *me: str) -> str:
    """What an import comes to; where it asks who is me, as the first of those it names."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    try:
        coverage = import_messages(source, path, Options(me=me, zone=UTC, day_first=True), out)
    except DataRefused as refused:
        if refused.code == "who_is_me" and not me:
            return outcome(source, path, folder, refused.details[0])
        return "refused" if refused.message and not out.exists() else f"left {path.name}"
    kept = sum(1 for record in read_records(out) if record is not None)
    counted = coverage.kept + coverage.skipped.total() + coverage.not_understood
    return "imported" if kept == coverage.kept and counted == coverage.seen else f"lost some of {path.name}"


def test_every_source_has_samples() -> None:
    """But for jsonl, which is the project's own, and instagram, whose samples lie with messenger's."""
    assert set(SOURCES) == {*FOLDERS.values(), "jsonl", "instagram"}
