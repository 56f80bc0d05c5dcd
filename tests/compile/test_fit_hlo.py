"""Collectives read from recorded HLO texts, against the known traffic of the step."""

import pytest
from helpers import ROOT

from jssl.compile import hlo

GOLDEN = ROOT / "tests" / "golden"
# tests/reference/record_fit_texts.py: gathers 32 x 16 float32 over 8 devices, scatters their
# gradient, sums 16 x 16 of gradients, and three times passes 4 x 16 to the next device.
GATHERED, GRADIENTS, PASSED = 32 * 16 * 4, 16 * 16 * 4, 4 * 16 * 4


@pytest.mark.parametrize("chip", ["v5e", "h100", "cpu"])
def test_collectives_of_a_recorded_step(chip):
    result = hlo.collectives((GOLDEN / f"fit_{chip}.txt").read_text())
    # The TPU multiplies in bfloat16, and its compiler rounds before it gathers: half the bytes.
    gathered = GATHERED / 2 if chip == "v5e" else GATHERED
    assert result["all-gather"] == hlo.Collective(1, gathered, gathered * 7 / 8)
    assert result["collective-permute"] == hlo.Collective(3, 3 * PASSED, 3 * PASSED)
    scattered = result.get("reduce-scatter")
    if scattered is None:  # the TPU's compiler sums where the buffer is small, and then slices
        assert result["all-reduce"].count == 2
        assert result["all-reduce"].bytes == GRADIENTS + GATHERED
    else:
        assert scattered == hlo.Collective(1, GATHERED, GATHERED * 7 / 8)
        assert result["all-reduce"] == hlo.Collective(1, GRADIENTS, GRADIENTS * 2 * 7 / 8)
    assert len(result) == (3 if scattered is None else 4)


def test_shape_bytes():
    assert hlo.shape_bytes("f32[3,5]{1,0:T(8,128)S(1)}") == 60
    assert hlo.shape_bytes("(bf16[7], (pred[3], s4[8]), u32[])") == 14 + 3 + 4 + 4
    assert hlo.shape_bytes("f8e4m3fn[10]") == 10
    assert hlo.shape_bytes("()") == 0


def test_touched_bytes_are_those_of_the_memory_behind_the_chip():
    text = """ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %c = (f32[8,4]{1,0:S(1)}, f32[8,4]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %near = f32[8,4]{1,0:T(8,128)S(1)} copy-done(%c)
  %s = ((f32[8,4]{1,0}), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:2], [0:4]}
  %t = f32[2,4]{1,0:S(1)} slice-done(%s)
  %u = f32[2,4]{1,0} slice(%p), slice={[2:4], [0:4]}
  ROOT %r = f32[8,4]{1,0} fusion(%near, %t, %u), calls=%a
}
"""
    rows = {line.name: size for line, size in hlo.touched_by(text)}
    assert rows == {"c": 128, "s": 32, "u": 32 + 32, "r": 128 + 32}
    assert hlo.touched_bytes(text) == sum(rows.values())


TEXT = """HloModule jit_step, num_partitions=8

%body (t: (s32[], f32[10])) -> (s32[], f32[10]) {
  %t = (s32[], f32[10]{0}) parameter(0)
  %x = f32[10]{0} get-tuple-element(%t), index=1
  %y = f32[10]{0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %o = (s32[], f32[10]{0}) tuple(%i, %y)
}

ENTRY %main (p: f32[10]) -> f32[10] {
  %p = f32[10]{0} parameter(0)
  %s = (f32[10]{0}, f32[6]{0}) all-reduce-start(%p, %q), replica_groups={}, to_apply=%add
  %d = (f32[10]{0}, f32[6]{0}) all-reduce-done(%s)
  %w = (s32[], f32[10]{0}) while(%c), body=%body, condition=%cond, backend_config={"known_trip_count":{"n":"5"}}
  %f = f32[4]{0} fusion(%p, %p), kind=kLoop, calls=%inside
  ROOT %r = f32[10]{0} get-tuple-element(%w), index=1
}
"""  # noqa: E501


def test_groups_loops_and_joined_buffers_by_hand():
    result = hlo.collectives(TEXT)["all-reduce"]
    assert result.count == 1 + 5
    assert result.bytes == 64 + 5 * 40
    # empty groups: all eight devices; [2,4]: four of them
    assert result.payload == 64 * 2 * 7 / 8 + 5 * 40 * 2 * 3 / 4


def test_bytes_outside_fusions_by_hand():
    # start: reads p (40; q is unknown here), writes 64; loop: 5 times 40 in and 40 out;
    # fusion: p twice in, 16 out. The done, the tuple and the parameters move nothing.
    assert hlo.touched_bytes(TEXT) == (40 + 64) + 5 * 80 + (40 + 40 + 16)
