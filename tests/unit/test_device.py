"""Peaks that have a source, MFU only with one, and models of the size that they are said to have."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from tests.support import needs, tiny_run
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

torch = needs.require("torch")

from nsa.config import load
from nsa.device import PEAKS, mfu, out_of_memory, peak_flops


@pytest.mark.parametrize(
    ("name", "bf16_tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-SXM4-40GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.5),
        ("NVIDIA L4", 121.0),
    ],
)
def test_known_devices_have_their_data_sheets_peak(name: str, bf16_tflops: float) -> None:
    assert peak_flops(name, "bf16") == bf16_tflops * 1e12
    fp32 = peak_flops(name, "fp32")
    assert fp32 is not None
    assert fp32 < bf16_tflops * 1e12


@pytest.mark.parametrize(
    "name",
    ["cpu", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA A10G", "NVIDIA GeForce RTX 4090", "NVIDIA L40", ""],
)
def test_unknown_devices_have_no_peak_and_so_no_mfu(name: str) -> None:
    peak = peak_flops(name, "bf16")
    assert peak is None
    assert mfu(tokens_per_second=1e6, flops_per_token=1e9, peak=peak, devices=1) is None


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 31)])
def test_a_size_that_no_memory_has_is_too_little_memory(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(shape, dtype=torch.float64)
    said = out_of_memory(raised.value)
    assert said is not None
    assert said.startswith("out of memory: lower train.micro_batch")


def test_every_peak_names_its_source() -> None:
    assert all("data sheet" in peak.source for peak in PEAKS)


def test_mfu_is_the_share_of_all_devices_peak() -> None:
    peak = peak_flops("NVIDIA A100-SXM4-80GB", "bf16")
    assert mfu(tokens_per_second=100_000, flops_per_token=1.56e9, peak=peak, devices=2) == pytest.approx(0.25)


def test_fp32_is_fp32_in_an_image_that_would_have_it_rounded(tmp_path: Path) -> None:
    """NVIDIA's images set the variable: parity with the reference and the share of fp32's peak suffer."""
    program = (
        "import sys, torch; from pathlib import Path; from nsa import config, device\n"
        "before = torch.get_float32_matmul_precision()\n"
        "device.choose(config.load(Path(sys.argv[1])).train, local_rank=0)\n"
        "print(before, torch.get_float32_matmul_precision())"
    )
    done = completed(
        [sys.executable, "-c", program, str(tiny_run.config(tmp_path))],
        env=clean_env(PYTHONPATH=str(REPOSITORY), TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1"),
    )
    assert done.stdout.split() == ["high", "highest"], done


@pytest.mark.parametrize("name", ["m7c_125m", "m7c_125m_local"])
def test_the_125_m_model_has_120_to_130_million_parameters_and_gpt2s_vocabulary(name: str) -> None:
    from nsa.config import GPT2_VOCABULARY
    from nsa.transformer import Transformer

    config = load(REPOSITORY / "configs" / f"{name}.yaml")
    rows = config.model.vocab_size or GPT2_VOCABULARY
    assert rows == 50257
    with torch.device("meta"):
        model = Transformer(config.model, rows, config.data.sequence_length)
    assert 120e6 <= model.parameter_count() <= 130e6


def test_the_local_model_is_the_same_as_the_streamed_one() -> None:
    streamed, local = (
        load(REPOSITORY / "configs" / f"{name}.yaml") for name in ("m7c_125m", "m7c_125m_local")
    )
    assert local.model.model_copy(update={"vocab_size": None}) == streamed.model
    assert local.schedule == streamed.schedule
    assert local.train == streamed.train


@pytest.mark.parametrize(("chosen", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_how_threads_wait_is_said_before_torch_is_loaded(
    tmp_path: Path, chosen: dict[str, str], found: str
) -> None:
    """OpenMP reads it once, when torch's libraries are loaded: afterwards it changes nothing."""
    (tmp_path / "torch.py").write_text(
        "import os\nprint('policy', os.environ.get('OMP_WAIT_POLICY'), flush=True)\nos._exit(0)\n"
    )
    done = completed(
        [
            sys.executable,
            "-m",
            "nsa",
            "train",
            str(tiny_run.config(tmp_path)),
            "--out",
            str(tmp_path / "out"),
        ],
        env=clean_env(PYTHONPATH=f"{tmp_path}:{REPOSITORY}", **chosen),
    )
    assert done.stdout.strip().endswith(f"policy {found}"), done


@pytest.mark.parametrize(("chosen", "size"), [({}, "2000"), ({"TORCH_FR_BUFFER_SIZE": "7"}, "7")])
def test_the_flight_recorder_is_on_before_torch_is_loaded_and_a_choice_is_kept(
    tmp_path: Path, chosen: dict[str, str], size: str
) -> None:
    (tmp_path / "torch.py").write_text(
        "import os\n"
        "print(os.environ['TORCH_FR_BUFFER_SIZE'], os.environ['TORCH_FR_DUMP_TEMP_FILE'], flush=True)\n"
        "os._exit(0)\n"
    )
    out = tmp_path / "out"
    done = completed(
        [sys.executable, "-m", "nsa", "train", str(tiny_run.config(tmp_path)), "--out", str(out)],
        env=clean_env(PYTHONPATH=f"{tmp_path}:{REPOSITORY}", **chosen),
    )
    assert done.stdout.split() == [size, str(out / "flight_recorder" / "rank_")], done
    # The names are torch's own: another version that has others would record nothing, in silence.
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        assert all(text.find(name) >= 0 for name in (b"TORCH_FR_BUFFER_SIZE", b"TORCH_FR_DUMP_TEMP_FILE"))
