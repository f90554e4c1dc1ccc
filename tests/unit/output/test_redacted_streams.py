"""What anybody prints or logs is masked, in whatever file it ends."""

import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from secret_shapes import SHAPES

from harness.output.redacted_streams import redact_logs, redacted_streams
from harness.redaction import MASK


def test_streams_mask_what_anybody_prints() -> None:
    secret, out, err = SHAPES["GitHub"], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), redacted_streams():
        sys.stdout.write(f"a {secret}\n")
        sys.stderr.writelines([f"b {secret}\n"])
        assert not sys.stderr.isatty()
    assert (out.getvalue(), err.getvalue()) == (f"a {MASK}\n", f"b {MASK}\n")


@pytest.mark.usefixtures("_logs_as_before")
def test_log_files_hold_no_secret_whatever_writes_them(tmp_path: Path) -> None:
    redact_logs()
    secret = SHAPES["Anthropic"]
    file = tmp_path / "harness.log"
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    log = logging.getLogger("a.library")
    log.addHandler(handler)
    try:
        log.warning("refused: %s, %d times", secret, 3)
        try:
            raise OSError(f"401 for {secret}")
        except OSError:
            log.exception("failed")
        log.warning("plain %s", "words")
    finally:
        log.removeHandler(handler)
        handler.close()
    text = file.read_text()
    assert secret not in text
    assert f"a.library refused: {MASK}, 3 times\n" in text
    assert f"OSError: 401 for {MASK}" in text
    assert "a.library plain words\n" in text
