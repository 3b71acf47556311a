# SPDX-License-Identifier: Apache-2.0
"""The harness of the integration tests serves these, too."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
