"""The ready-made files for a cluster are what they say: valid, and with commands that exist."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mlp.settings import setting_paths

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "scale"


def test_compose_file_has_its_services_and_they_refer_to_each_other():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services = compose["services"]
    assert {"postgres", "mlflow", "head", "worker", "sweep"} <= services.keys()
    for service in services.values():
        assert {*service.get("depends_on", [])} <= services.keys()
        mounted = [str(volume).partition(":")[0] for volume in service.get("volumes", [])]
        for name in mounted:
            assert name in compose.get("volumes", {}) or (FOLDER / name).exists()
        assert "image" in service or "build" in service


def test_kubernetes_objects_have_kind_name_and_version():
    objects = [o for o in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()) if o]
    assert "RayCluster" in {o["kind"] for o in objects} or "RayJob" in {o["kind"] for o in objects}
    for each in objects:
        assert each["apiVersion"]
        assert each["metadata"]["name"]


@pytest.mark.parametrize("name", ["mlflow-server.sh", "sweep.slurm"])
def test_script_is_bash(name):
    assert subprocess.run(["bash", "-n", FOLDER / name], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_settings_in_it_exist(path):
    known = setting_paths("sweep")
    used = re.findall(r"\b((?:study|tracking|execution|data)\.\w+)=", path.read_text())
    assert {*used} <= known.keys()
