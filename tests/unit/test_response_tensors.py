from __future__ import annotations

import math

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response.codec import decode, encode
from axolotl_cache.stores import Record

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


def there_and_back(value):
    codec, payload = encode(value)
    return decode(Record(payload, codec, 0.0))


class TestNumpy:
    @pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
    def test_arrays_come_back(self, dtype, shape):
        array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
        back = there_and_back(array)
        assert type(back) is np.ndarray
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array)
        assert back.flags.writeable
        assert back.flags.owndata or back.base.flags.owndata

    def test_nan_and_signed_zero_come_back_bit_for_bit(self):
        array = np.array([math.nan, -0.0, math.inf, 1e-320])
        assert there_and_back(array).tobytes() == array.tobytes()

    def test_strided_and_reversed_views_come_back(self):
        array = np.arange(24.0).reshape(4, 6)
        for view in (array.T, array[::-1, ::2], np.asfortranarray(array), np.broadcast_to(array[0], (3, 6))):
            assert np.array_equal(there_and_back(view), view)

    def test_changing_what_was_got_does_not_change_the_cache(self):
        cache = SmartInferenceCache()
        array = np.arange(3)
        cache.set("k", array)
        array[0] = 9
        cache.get("k")[:] = 7
        assert cache.get("k").tolist() == [0, 1, 2]

    def test_what_would_come_back_different_is_refused(self):
        for wrong in (
            np.array([object()]),
            np.array(["text"]),
            np.array(["2024-01-01"], dtype="M8[D]"),
            np.zeros(2, dtype=[("a", "f4")]),
            np.arange(3).astype(">i4"),
            np.float32(1.0),
            np.ma.masked_array([1, 2], [True, False]),
            np.arange(3).view(np.recarray),
            [np.float64(1.0)],
            {"a": np.arange(2)},
            np.dtype("f4"),
        ):
            with pytest.raises(TypeError):
                encode(wrong)


class TestTorch:
    @pytest.mark.parametrize(
        "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool"]
    )
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
    def test_tensors_come_back(self, dtype, shape):
        tensor = torch.arange(math.prod(shape)).reshape(shape).to(getattr(torch, dtype))
        back = there_and_back(tensor)
        assert type(back) is torch.Tensor
        assert (back.dtype, back.shape, back.device) == (tensor.dtype, tensor.shape, tensor.device)
        assert torch.equal(back, tensor)

    def test_views_come_back_without_what_they_look_into(self):
        base = torch.arange(1000.0)
        view = base[::100]
        codec, payload = encode(view)
        assert len(payload) < 400
        assert torch.equal(decode(Record(payload, codec, 0.0)), view)
        assert torch.equal(there_and_back(base.reshape(10, 100).T), base.reshape(10, 100).T)

    def test_changing_what_was_got_does_not_change_the_cache(self):
        cache = SmartInferenceCache()
        tensor = torch.arange(3)
        cache.set("k", tensor)
        tensor.zero_()
        cache.get("k").fill_(7)
        assert cache.get("k").tolist() == [0, 1, 2]

    def test_what_would_come_back_different_is_refused(self):
        for wrong, says in (
            (torch.ones(2, requires_grad=True), "detach"),
            (torch.nn.Parameter(torch.ones(2)), "as_subclass"),
            (torch.ones(2, 2).to_sparse(), "to_dense"),
            (torch.ones(2, device="meta"), "cpu"),
            (torch.float32, "torch.dtype"),
        ):
            with pytest.raises(TypeError, match=says):
                encode(wrong)
