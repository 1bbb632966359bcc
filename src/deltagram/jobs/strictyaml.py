"""YAML files that people write: read safely, each key once, faults in one sentence."""

from pathlib import Path
from typing import Any

import yaml

from deltagram.errors import SettingError


class _OnceLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, or ConstructorError for a key that stands twice."""
        seen: list[object] = []
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"has {name!r} twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, *, shape: str) -> Any:
    """What a file holds, as plain data. Raises SettingError that says the expected `shape`."""
    try:
        return yaml.load(path.read_text("utf-8"), _OnceLoader)
    except OSError as fault:
        raise SettingError(str(path), f"cannot be read ({fault.strerror})") from None
    except yaml.MarkedYAMLError as fault:
        line = f" (line {fault.problem_mark.line + 1})" if fault.problem_mark else ""
        raise SettingError(str(path), f"is not YAML: {fault.problem}{line}", expected=shape) from None
    except RecursionError:
        raise SettingError(str(path), "is not YAML: it is nested too deep", expected=shape) from None
    except (yaml.YAMLError, ValueError, AttributeError) as fault:  # a tag whose text is not of its kind
        raise SettingError(str(path), f"is not YAML: {' '.join(str(fault).split())}", expected=shape) from None
