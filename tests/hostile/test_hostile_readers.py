"""Whatever is in a file, reading it succeeds or is refused in words; soon, and without much memory.

The inputs are those of the fuzz runs: valid files of every kind with random changes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import seeds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import Oracle
from targets import TARGETS

from pascaline.checkpoint.hub_listing import parse_listing
from pascaline.checkpoint.json_file import parse_json
from pascaline.core.errors import PascalineError
from pascaline.models import FAMILIES, read_config
from pascaline.report.run_record import read_record
from pascaline.workload.schemes import SCHEMES

deterministic = settings(max_examples=150, deadline=None, database=None, derandomize=True)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = st.recursive(
    scalars
    | st.sampled_from([0, 1, 2, 2**24, 2**31, 2**63, 2**64, 1e-320, 1e300, "yarn", "longrope", "int"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@functools.cache
def _seeds(name: str) -> list[bytes]:
    return list(TARGETS[name].seeds())


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(PascalineError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(name: str, folder: Path, oracle: Oracle) -> None:
    before = oracle.accepted
    for data in _seeds(name):
        finding = oracle.check(functools.partial(TARGETS[name].read, data, folder), len(data))
        assert finding is None, finding.detail
    pickled = 1 if name == "folder" else 0
    assert oracle.accepted - before == len(_seeds(name)) - pickled


@pytest.mark.parametrize("name", TARGETS)
@deterministic
@given(seed=st.integers(0, 2**64))
def test_changed_files_are_read_or_refused(name: str, folder: Path, oracle: Oracle, seed: int) -> None:
    target, random = TARGETS[name], Random(seed)
    data = random.choice(_seeds(name))
    for _ in range(random.choice((1, 1, 2, 3))):
        data = target.mutate(data, random) or data
    finding = oracle.check(lambda: target.read(data, folder), len(data))
    assert finding is None, f"{finding}\n{data[:2000]!r}"


@deterministic
@given(
    model_type=st.sampled_from([*FAMILIES, "mamba", ""]),
    changes=st.dictionaries(
        st.sampled_from(sorted({*seeds.CONFIG_KEYS, *seeds.config_of(FAMILIES["phi3"].tiny)})), json_values
    ),
    container=st.sampled_from(["gguf", "safetensors"]),
)
def test_any_model_configuration_is_read_or_refused(
    model_type: str, changes: dict[str, object], container: str
) -> None:
    plain = (
        seeds.config_of(FAMILIES[model_type].tiny) if model_type in FAMILIES else {"model_type": model_type}
    )
    _refused_or(lambda: read_config(plain | changes, "gguf" if container == "gguf" else "safetensors"))


@deterministic
@given(
    method=st.sampled_from(list(SCHEMES)),
    config=st.dictionaries(st.sampled_from(seeds.QUANTISED_KEYS) | st.text(max_size=4), json_values),
)
@example(method="compressed-tensors", config={"config_groups": {"a": {"weights": {"num_bits": []}}}})
@example(method="gptq", config={"bits": 4, "dynamic": {"a": {"sym": []}}})
def test_any_quantization_config_is_read_or_refused(method: str, config: dict[str, object]) -> None:
    _refused_or(lambda: SCHEMES[method](config))


@deterministic
@given(answer=st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
@example(
    answer=b'{"sha": "' + b"a" * 40 + b'", "siblings": [{"rfilename": "a", "size": ' + b"9" * 4000 + b"}]}"
)
def test_any_answer_of_a_hub_is_read_or_refused(answer: bytes) -> None:
    _refused_or(lambda: parse_listing(answer))


@deterministic
@given(content=st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_run_record_is_read_or_refused(content: bytes, folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(content)
    _refused_or(lambda: read_record(path))


@deterministic
@given(value=json_values)
def test_json_that_is_within_bounds_stays_what_it_is(value: object) -> None:
    text = json.dumps(value)
    assert json.dumps(parse_json(text.encode())) == text


def _refused_or(read: Callable[[], object]) -> None:
    finding = Oracle(PascalineError).check(read, 0)
    assert finding is None, finding.detail
