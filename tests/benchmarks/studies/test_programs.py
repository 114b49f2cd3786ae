"""Counting the kernels of a program for a GPU, from a text as XLA writes it, without a GPU or a compiler for one."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks.studies import programs
from benchmarks.studies.kernels import GPUS, Kernel, kernels_of
from tests import launches

TEXT = """\
HloModule jit_step, is_scheduled=true

%fused_dot (param_0: bf16[8,16], param_1: bf16[16,4]) -> f32[8,4] {
  %param_0 = bf16[8,16]{1,0} parameter(0)
  %param_1 = bf16[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%command_buffer (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %copy.1 = f32[8,4]{0,1} copy(%p)
  ROOT %transpose = f32[8,4]{1,0} fusion(%copy.1), kind=kInput, calls=%fused_dot.2
}

%fused_dot.2 (q: f32[8,4]) -> f32[8,4] {
  ROOT %q = f32[8,4]{1,0} parameter(0)
}

ENTRY %main (x: f32[2,8,8,3], k: f32[6,3,3,3], a: bf16[8,16], b: bf16[16,4]) -> (f32[8,4], f32[6,3,3,3]) {
  %x = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[6,3,3,3]{3,2,1,0} parameter(1)
  %a = bf16[8,16]{1,0} parameter(2)
  %b = bf16[16,4]{1,0} parameter(3)
  %conv = (f32[2,4,4,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = f32[2,4,4,6]{3,2,1,0} get-tuple-element(%conv), index=0
  %squared = f32[2,4,4,6]{3,2,1,0} fusion(%y, %y), kind=kLoop, calls=%fused_dot.2
  %back = (f32[6,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %squared), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %input = (f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%squared, %k), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %grad = f32[6,3,3,3]{3,2,1,0} get-tuple-element(%back), index=0
  %product = f32[8,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused_dot
  %gemm = (f32[8,8]{1,0}, s8[0]{0}) custom-call(%product, %product), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"]}}}
  %called = f32[8,4]{1,0} call(%product), to_apply=%command_buffer
  ROOT %tuple = (f32[8,4]{1,0}, f32[6,3,3,3]{3,2,1,0}) tuple(%called, %grad)
}
"""  # noqa: E501


def test_kernels_their_bytes_and_their_operations_are_counted():
    x, kernel, y = 2 * 8 * 8 * 3 * 4, 6 * 3 * 3 * 3 * 4, 2 * 4 * 4 * 6 * 4
    macs = 2 * 4 * 4 * 6 * 3 * 3 * 3
    assert kernels_of(TEXT) == [
        Kernel("conv", x + kernel + y, {"f32": 2.0 * macs}),
        Kernel("squared", 2 * y, {}),
        Kernel("back", x + kernel + y, {"f32": 2.0 * macs}),
        Kernel("input", x + kernel + y, {"f32": 2.0 * macs}),
        Kernel("product", (8 * 16 + 16 * 4) * 2 + 8 * 4 * 4, {"bf16": 2.0 * 8 * 4 * 16}),
        Kernel("gemm", 8 * 4 * 4 + 8 * 8 * 4, {"f32": 2.0 * 8 * 8 * 4}),
        Kernel("copy.1", 2 * 8 * 4 * 4, {}),
        Kernel("transpose", 2 * 8 * 4 * 4, {}),
    ]
    gpu = GPUS["h100"]
    assert Kernel("a", 3_350_000, {"bf16": 1.0}).seconds(gpu) == pytest.approx(1e-6)
    assert Kernel("a", 1, {"f32": 494.7e6}).seconds(gpu) == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="without an entry computation"):
        kernels_of("HloModule empty")


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="this JAX may compile for a GPU")
def test_where_jax_compiles_for_no_gpu_the_command_says_what_to_install():
    command = [sys.executable, "-m", "benchmarks.studies.programs", "--suite", "sine"]
    refused = subprocess.run(command, cwd=launches.ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--suite: expected one that merges networks of images" in refused.stderr
    with pytest.raises(ImportError, match=r"expected a JAX that compiles for CUDA.*pip install 'jax\[cuda12\]'"):
        programs._device(GPUS["h100"])
