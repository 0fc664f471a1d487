"""What `import node` hands on, and that it costs nothing until it is used."""

import subprocess
import sys

import pytest

import node
from node.node import Node
from node.project import Project
from psi.errors import VesicaError as Base


def test_the_public_names_are_those_of_the_modules() -> None:
    assert (node.Node, node.Project, node.VesicaError) == (Node, Project, Base)
    assert set(node.__all__) == {"Node", "Project", "VesicaError"}
    with pytest.raises(AttributeError, match="Nodes"):
        node.Nodes  # noqa: B018 - raises


def test_importing_the_package_loads_none_of_it() -> None:
    script = "import sys, node; print(*[name for name in sys.modules if name.startswith('node.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
