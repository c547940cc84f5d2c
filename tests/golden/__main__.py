"""
Write the golden file of every example that has none, and note what it needs: `python -m tests.golden`.

An existing file is never changed: others have stored such events. Where it no longer agrees with the code, the code is
wrong, or the event needs a new version and an upcaster.
"""

from __future__ import annotations

from tests.golden.files import FOLDER, write_missing, write_missing_required

if __name__ == "__main__":
    written = [*map(str, write_missing(FOLDER)), *write_missing_required()]
    print("\n".join(written) or "every example has its file")
