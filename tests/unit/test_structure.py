"""Models of types nobody described, read from the names and shapes of their tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import InputError, UnknownName
from steelyard.workload import Attention, Step, Transformer
from steelyard.workload.blocks.delta_net import DeltaNet
from steelyard.workload.blocks.linear_attention import LinearAttention
from steelyard.workload.blocks.mamba import Mamba2
from steelyard.workload.blocks.recurrent import GatedRecurrence
from steelyard.workload.catalogue import load_model
from steelyard.workload.families import read_config
from steelyard.workload.ingest.safetensors import MAX_TENSORS, TensorInfo
from steelyard.workload.structure import Structure, read_structure
from steelyard.workload.structure.names import place_of, role_of
from steelyard.workload.transformer import LayerInputs
from tests.weights import write_safetensors

Shapes = dict[str, tuple[int, ...]]


def write(path: Path, tensors: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str] | None = None) -> int:
    """A safetensors file of holes, of bf16 unless said; the bytes of its tensors."""
    return write_safetensors(path, ((name, shape, (dtypes or {}).get(name, "BF16")) for name, shape in tensors.items()))


def infos(shapes: Shapes) -> list[TensorInfo]:
    made = [TensorInfo(name, shape, "bf16", 0) for name, shape in shapes.items()]
    return [TensorInfo(t.name, t.shape, t.format, 2 * t.elements) for t in made]


def read(
    shapes: Shapes, config: Mapping[str, Any] | None = None, *, asked: bool = False
) -> tuple[Transformer, Structure]:
    model, found = read_structure(infos(shapes), config or {}, asked=asked)
    assert isinstance(model, Transformer)
    return model, found


def attention(heads: int = 8, kv: int = 2, width: int = 64, hidden: int = 256, norm: bool = True) -> Shapes:
    found: Shapes = {
        "self_attn.q_proj.weight": (heads * width, hidden),
        "self_attn.k_proj.weight": (kv * width, hidden),
        "self_attn.v_proj.weight": (kv * width, hidden),
        "self_attn.o_proj.weight": (hidden, heads * width),
    }
    return found | ({"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)} if norm else {})


def mlp(width: int = 1024, hidden: int = 256, under: str = "mlp.") -> Shapes:
    return {
        f"{under}gate_proj.weight": (width, hidden),
        f"{under}up_proj.weight": (width, hidden),
        f"{under}down_proj.weight": (hidden, width),
    }


def experts(count: int = 8, width: int = 128, hidden: int = 256) -> Shapes:
    parts = [mlp(width, hidden, f"mlp.experts.{i}.") for i in range(count)]
    return {"mlp.gate.weight": (count, hidden)} | {k: v for part in parts for k, v in part.items()}


def norms(hidden: int = 256) -> Shapes:
    return {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}


def model_of(layers: list[Shapes], hidden: int = 256, vocab: int = 1000, tied: bool = False) -> Shapes:
    found: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i, layer in enumerate(layers):
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return found if tied else found | {"lm_head.weight": (vocab, hidden)}


DENSE = model_of([attention() | mlp() | norms()] * 3)
SIZES = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000}


def elements(shapes: Shapes) -> int:
    return sum(t.elements for t in infos(shapes))


def test_a_dense_model_needs_no_config() -> None:
    """The norm of queries tells the width of a head; all else stands in shapes."""
    model, found = read(DENSE)
    known = read_config({**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3})
    assert model.parameters() == known.parameters() == elements(DENSE)
    assert float(model.graph(Step.prefill(1, 99)).flops()) == float(known.graph(Step.prefill(1, 99)).flops())
    assert float(model.kv_elements(500)) == float(known.kv_elements(500))
    assert found.unknown == 0
    assert found.layer_bytes == (2 * elements(attention() | mlp() | norms()),) * 3
    assert {row.part for row in found.rows} == {"attention", "MLP", "norms", "token embeddings", "head"}
    assert "no config names its type; read from its 36 tensors" in model.notes[0]


def test_heads_that_nothing_tells_are_asked_for() -> None:
    """One line that names the key."""
    shapes = model_of([attention(norm=False) | mlp() | norms()] * 2)
    with pytest.raises(InputError, match="num_attention_heads: attention has 512 columns of queries"):
        read(shapes)
    model, _ = read(shapes, {"num_attention_heads": 8})
    assert model.layers[0].attention == Attention(8, 2, 64, rotary_dim=64)


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_one_by_one_or_stacked(stacked: bool) -> None:
    """How many a token visits is the only thing a config must say."""
    layer = attention() | norms() | experts()
    if stacked:
        layer = attention() | norms() | {"mlp.gate.weight": (8, 256)}
        layer |= {"mlp.experts.gate_up_proj": (8, 256, 256), "mlp.experts.down_proj": (8, 256, 128)}
    shared = mlp(384, 256, "mlp.shared_experts.")
    shapes = model_of([attention() | norms() | mlp(), layer | shared, layer | shared])
    with pytest.raises(InputError, match="num_experts_per_tok: the files hold 8 experts"):
        read(shapes)
    model, found = read(shapes, {"num_experts_per_tok": 2})
    block = model.layers[1].feed_forward
    assert block is not None
    assert (block.experts, block.top_k, block.intermediate, block.shared_intermediate) == (8, 2, 128, 384)
    assert model.parameters() == elements(shapes)
    assert model.active_parameters() == elements(shapes) - 2 * 6 * 3 * 128 * 256
    assert next(r for r in found.rows if r.part == "experts").priced_as == "2 x 8 of width 128, 2 per token"


def test_latent_attention_needs_no_config() -> None:
    """Heads, widths and ranks follow from the shapes of its products."""
    heads, nope, rope, value, rank, queries = 16, 64, 32, 48, 128, 192
    latent = {
        "self_attn.q_a_proj.weight": (queries, 256),
        "self_attn.q_a_layernorm.weight": (queries,),
        "self_attn.q_b_proj.weight": (heads * (nope + rope), queries),
        "self_attn.kv_a_proj_with_mqa.weight": (rank + rope, 256),
        "self_attn.kv_a_layernorm.weight": (rank,),
        "self_attn.kv_b_proj.weight": (heads * (nope + value), rank),
        "self_attn.o_proj.weight": (256, heads * value),
    }
    model, _ = read(model_of([latent | mlp() | norms()] * 2))
    a = model.layers[0].attention
    assert a is not None and a.is_mla
    assert (a.heads, a.nope_dim, a.rope_dim, a.values, a.kv_rank, a.q_rank) == (16, 64, 32, 48, 128, 192)
    assert model.kv_elements_per_token == 2 * (rank + rope)


def test_states_are_kept() -> None:
    """Mamba 2 and a gated delta net beside attention: their state is counted."""
    heads, width, states = 8, 64, 32
    inner = heads * width
    mamba = {
        "mixer.A_log": (heads,),
        "mixer.D": (heads,),
        "mixer.dt_bias": (heads,),
        "mixer.conv1d.weight": (inner + 2 * states, 1, 4),
        "mixer.conv1d.bias": (inner + 2 * states,),
        "mixer.in_proj.weight": (2 * inner + 2 * states + heads, 256),
        "mixer.norm.weight": (inner,),
        "mixer.out_proj.weight": (256, inner),
        "norm.weight": (256,),
    }
    delta = {
        "linear_attn.A_log": (4,),
        "linear_attn.dt_bias": (4,),
        "linear_attn.conv1d.weight": (2 * 2 * 64 + 4 * 64, 1, 4),
        "linear_attn.in_proj_qkv.weight": (2 * 2 * 64 + 4 * 64, 256),
        "linear_attn.in_proj_z.weight": (4 * 64, 256),
        "linear_attn.in_proj_a.weight": (4, 256),
        "linear_attn.in_proj_b.weight": (4, 256),
        "linear_attn.norm.weight": (64,),
        "linear_attn.out_proj.weight": (256, 4 * 64),
    }
    shapes = model_of([mamba, delta | mlp() | norms(), attention() | mlp() | norms()])
    model, found = read(shapes, {"state_size": states})
    mixers = [layer.mixer for layer in model.layers]
    assert isinstance(mixers[0], Mamba2) and (mixers[0].heads, mixers[0].state_dim, mixers[0].groups) == (8, 32, 1)
    assert isinstance(mixers[1], DeltaNet) and (mixers[1].key_heads, mixers[1].value_heads) == (2, 4)
    assert model.parameters() == elements(shapes)
    assert model.state_bytes > 0 and found.unknown == 0


def test_what_is_not_understood_is_said_and_refused_above_two_percent() -> None:
    """A plain product of every matrix where it was asked for; the weights are exact either way."""
    odd = {"side.left.weight": (300, 256), "side.right.weight": (256, 300)}
    few = {"side.left.weight": (9, 256)}
    shapes = model_of([attention() | mlp() | norms() | odd] * 3)
    with pytest.raises(InputError, match=r"1\d% of its weights are not understood \(side.left.weight, side.right"):
        read(shapes)
    for held, asked in ((shapes, True), (model_of([attention() | mlp() | norms() | few] * 3), False)):
        model, found = read(held, asked=asked)
        assert model.parameters() == elements(held)
        assert model.layers[0].beside and model.causal
        assert any("not understood (side.left.weight" in note for note in model.notes)
        extra = 2 * 99 * (elements(held) - elements(DENSE))
        plain = read(DENSE)[0]
        flops = [float(m.graph(Step.prefill(1, 99)).flops()) for m in (model, plain)]
        assert flops[0] - flops[1] == pytest.approx(extra)
        assert 0 < found.unknown < 0.2


def test_a_cache_that_is_not_known_is_never_dropped() -> None:
    """Few weights in a large model of experts, and yet what they cache matters: refused, or said when asked."""
    odd = {"self_attn.kv_compressed.weight": (64, 256), "self_attn.wkv.weight": (96, 256)}
    shapes = model_of([norms() | experts(64) | odd] * 2)
    with pytest.raises(InputError, match="how 2 layers mix tokens is not understood"):
        read(shapes, {"num_experts_per_tok": 2})
    model, _ = read(shapes, {"num_experts_per_tok": 2}, asked=True)
    assert any("what they cache is not counted" in note for note in model.notes)
    assert model.causal


def test_towers_and_guessing_layers() -> None:
    """A tower is loaded; layers beyond those of the config are not."""
    tower = {f"visual.blocks.{i}.attn.qkv.weight": (96, 32) for i in range(2)}
    ahead = {f"model.layers.3.{name}": shape for name, shape in (attention() | mlp() | norms()).items()}
    model, found = read(DENSE | tower | ahead, {"num_hidden_layers": 3})
    assert model.parameters() == elements(DENSE)
    assert [(t.name, t.parameters) for t in model.towers] == [("vision tower", elements(tower))]
    assert model.depth == 3
    parts = {row.part: row for row in found.rows}
    assert parts["vision or audio tower"].parameters == elements(tower)
    assert parts["multi-token prediction"].priced_as.startswith("not loaded")


def test_windows_come_from_the_config() -> None:
    """Shapes do not tell how far a layer looks back."""
    config = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 100}
    model, _ = read(DENSE, config)
    assert [(layer.count, layer.attention.window) for layer in model.layers if layer.attention] == [(2, 100), (1, 0)]


def test_an_index_of_pickles(tmp_path: Path) -> None:
    """They are not opened, though they are there; their index says their size."""
    config = {**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a header")
    content = {"metadata": {"total_size": 2 * elements(DENSE)}, "weight_map": dict.fromkeys(DENSE, "pytorch_model.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    model = load_model(tmp_path)
    assert model.weight_bytes == 2 * elements(DENSE)
    assert "1 of 1 weight files are not opened" in model.transformer.notes[-1]


def _forms() -> Iterator[tuple[str, Shapes, dict[str, Any], str]]:
    """Layers as makers name them: what to call it, the layer, the config, and what it comes to."""
    plain, hidden = attention(norm=False) | norms(), 256

    def one_by_one(group: str) -> Shapes:
        return {f"{group}.{i}.w{n}.weight": (256, 128) if n == 2 else (128, 256) for i in range(8) for n in (1, 2, 3)}

    gate = {"block_sparse_moe.gate.weight": (8, hidden)}
    yield "mixtral", plain | one_by_one("block_sparse_moe.experts") | gate, {}, "8 of width 128, 2 per token"
    stacked = {
        "block_sparse_moe.input_linear.weight": (8, 256, hidden),
        "shared_mlp.input_linear.weight": (512, hidden),
    }
    stacked |= {
        "block_sparse_moe.output_linear.weight": (8, hidden, 128),
        "block_sparse_moe.router.layer.weight": (8, 256),
    }
    stacked |= {"shared_mlp.output_linear.weight": (hidden, 256)}
    yield "granite", plain | stacked, {}, "8 of width 128, 2 per token"
    flat = {f"ffn.experts.mlp.{n}": (8 * 128, hidden) for n in ("w1", "v1", "w2")} | {
        "ffn.router.layer.weight": (8, 256)
    }
    fused = {"norm_attn_norm.attn.Wqkv.weight": (768, hidden), "norm_attn_norm.attn.out_proj.weight": (hidden, 512)}
    fused |= {f"norm_attn_norm.norm_{i}.weight": (hidden,) for i in (1, 2)}
    yield "dbrx", fused | flat, {"moe_num_experts": 8}, "8 of width 128, 2 per token"
    step = {"moe.gate.weight": (8, 256), "moe.router_bias": (8,), "moe.down_proj.weight": (8, 256, 128)}
    step |= {f"moe.{n}_proj.weight": (8, 128, 256) for n in ("gate", "up")}
    yield "step", plain | step | mlp(128, 256, "share_expert."), {}, "8 of width 128, 2 per token"
    qwen = {"attn.c_attn.weight": (768, 256), "attn.c_attn.bias": (768,), "attn.c_proj.weight": (256, 256)}
    qwen |= {"mlp.w1.weight": (512, 256), "mlp.w2.weight": (512, 256), "mlp.c_proj.weight": (256, 512)}
    yield "qwen", qwen | {"ln_1.weight": (256,), "ln_2.weight": (256,)}, {}, "gated, width 512"
    sinks = {"self_attn.sinks": (8,), "mlp.router.weight": (8, 256), "mlp.router.bias": (8,)}
    sinks |= {"mlp.experts.gate_up_proj": (8, 256, 256), "mlp.experts.gate_up_proj_bias": (8, 256)}
    sinks |= {"mlp.experts.down_proj": (8, 128, 256), "mlp.experts.down_proj_bias": (8, 256)}
    yield "gpt-oss", plain | sinks, {}, "8 of width 128, 2 per token"
    lightning = {"self_attn.qkv_proj.weight": (1536, 256), "self_attn.out_proj.weight": (256, 512)}
    lightning |= {"self_attn.output_gate.weight": (512, 256), "self_attn.norm.weight": (512,)} | norms() | mlp()
    yield "minimax", lightning, {"attn_type_list": [0, 0]}, "LinearAttention"


@pytest.mark.parametrize(("layer", "config", "priced"), [pytest.param(*x[1:], id=x[0]) for x in _forms()])
def test_names_as_makers_write_them(layer: Shapes, config: dict[str, Any], priced: str) -> None:
    shapes = model_of([layer] * 2)
    model, found = read(shapes, {"num_attention_heads": 8, "num_experts_per_tok": 2, **config})
    assert model.parameters() == elements(shapes)
    assert found.unknown == 0
    assert any(priced in row.priced_as for row in found.rows)


def test_more_tensors_than_any_model_has_are_refused_unread(tmp_path: Path) -> None:
    """Before anything is made of them."""
    header = b"{" + b",".join(b'"%d":{}' % i for i in range(MAX_TENSORS + 2)) + b"}"
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match=r"m\.safetensors: more than 500,000 tensors"):
        load_model(tmp_path / "m.safetensors")


def test_layers_of_equal_shapes_that_a_config_tells_apart() -> None:
    """Heads of each layer in a list; layers that read what earlier ones cached though files hold their keys."""
    shapes = model_of([attention(norm=False) | mlp() | norms()] * 3)
    model, _ = read(shapes, {"num_attention_heads": [8, 4, 8]})
    assert [(a.heads, a.kv_heads) for layer in model.layers if (a := layer.attention)] == [(8, 2), (4, 1)]
    model, _ = read(DENSE, {"num_kv_shared_layers": 1})
    assert float(model.kv_elements(10)) == 10 * 2 * 2 * 2 * 64
    assert model.parameters() == elements(DENSE)


def test_a_window_whose_layers_are_not_known_is_not_used() -> None:
    """An upper bound of the cache, and a word about it; a pattern or a list of layers is used."""
    model, _ = read(DENSE, {"sliding_window": 100})
    assert model.window == 0
    assert any("window of 100 tokens is stated and not which layers" in note for note in model.notes)
    model, _ = read(DENSE, {"sliding_window": 100, "sliding_window_pattern": 3})
    assert [(x.count, x.attention.window) for x in model.layers if x.attention] == [(2, 100), (1, 0)]


def test_compressed_caches_and_streams() -> None:
    """One vector as key and value, entries of four and of 128 tokens, four residual streams; makers' own names."""
    heads, width, rank, hidden = 8, 64, 96, 256
    common = {
        "attn.wq_a.weight": (rank, hidden),
        "attn.q_norm.weight": (rank,),
        "attn.wq_b.weight": (heads * width, rank),
        "attn.wkv.weight": (width, hidden),
        "attn.kv_norm.weight": (width,),
        "attn.wo_a.weight": (2 * 32, heads * width // 2),
        "attn.wo_b.weight": (hidden, 2 * 32),
        "attn.attn_sink": (heads,),
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        "hc_attn_fn": (24, 4 * hidden),
        "hc_ffn_fn": (24, 4 * hidden),
        **{f"ffn.{n}.weight": s for n, s in (("w1", (512, 256)), ("w2", (256, 512)), ("w3", (512, 256)))},
    }

    def compressor(every: int, wide: int, out: int, under: str) -> Shapes:
        return {
            f"{under}.ape": (every, wide),
            f"{under}.wkv.weight": (wide, hidden),
            f"{under}.wgate.weight": (wide, hidden),
            f"{under}.norm.weight": (out,),
        }

    fine = (
        common | compressor(4, 2 * width, width, "attn.compressor") | compressor(4, 64, 32, "attn.indexer.compressor")
    )
    fine |= {"attn.indexer.wq_b.weight": (4 * 32, rank), "attn.indexer.weights_proj.weight": (4, hidden)}
    coarse = common | compressor(128, width, width, "attn.compressor")
    shapes = {"embed.weight": (1000, hidden), "norm.weight": (hidden,), "head.weight": (1000, hidden)}
    shapes |= {"hc_head_fn": (4, 4 * hidden)}
    for i, layer in enumerate([coarse, fine]):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    model, found = read(shapes, {"sliding_window": 128, "index_topk": 64})
    blocks = [layer.attention for layer in model.layers]
    assert [(a.compress, a.index_heads, a.index_dim, a.heads, a.joint_kv) for a in blocks if a] == [
        (128, 0, 0, 8, True),
        (4, 4, 32, 8, True),
    ]
    assert model.streams is not None and (model.streams.count, model.streams.mixes) == (4, 24)
    assert model.parameters() == elements(shapes) and found.unknown == 0


def test_recurrences_and_embeddings_of_each_layer() -> None:
    """Griffin's recurrence, xLSTM's matrix memory, a table of its own for every layer."""
    griffin = {
        f"rec.linear_{x}.{e}": s for x in ("x", "y", "out") for e, s in (("weight", (256, 256)), ("bias", (256,)))
    }
    griffin |= {f"rec.rg_lru.{x}_gate_weight": (4, 64, 64) for x in ("input", "recurrent")}
    griffin |= {f"rec.rg_lru.{x}_gate_bias": (4, 64) for x in ("input", "recurrent")}
    griffin |= {"rec.rg_lru.recurrent_param": (256,), "rec.conv_1d.weight": (256, 1, 4), "rec.conv_1d.bias": (256,)}
    memory = {f"mlstm.{x}.weight": (128, 256) for x in "qk"}
    memory |= {f"mlstm.{x}.weight": (256, 256) for x in ("v", "ogate_preact", "out_proj")}
    memory |= {
        f"mlstm.{x}_preact.{e}": s for x in ("igate", "fgate") for e, s in (("weight", (2, 256)), ("bias", (2,)))
    }
    memory |= {"mlstm.multihead_norm.weight": (256,)}
    inputs = {"per_layer_input_gate.weight": (32, 256), "per_layer_projection.weight": (256, 32)}
    inputs |= {"post_per_layer_input_norm.weight": (256,)}
    shapes = model_of([layer | mlp() | norms() | inputs for layer in (griffin, memory)])
    shapes |= {"model.embed_tokens_per_layer.weight": (500, 64), "model.per_layer_model_projection.weight": (64, 256)}
    shapes |= {"model.per_layer_projection_norm.weight": (32,)}
    model, found = read(shapes)
    mixers = [layer.mixer for layer in model.layers]
    assert mixers == [GatedRecurrence(256, 4, 4), LinearAttention(2, 64, 128, gates=2, chunk=64)]
    assert model.layer_inputs == LayerInputs(500, 32)
    assert model.parameters() == elements(shapes) and found.unknown == 0


def test_folder_without_a_config(tmp_path: Path) -> None:
    """Its files are enough; so is one file; a config of one key is enough for what they do not tell."""
    size = write(tmp_path / "model.safetensors", DENSE)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        model = load_model(path)
        assert model.weight_bytes == size
        assert model.structure is not None and model.structure.unknown == 0
    write(tmp_path / "model.safetensors", model_of([attention(norm=False) | mlp() | norms()]))
    with pytest.raises(InputError, match=r"model.safetensors: num_attention_heads: .* state it in a config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 8}')
    assert load_model(tmp_path).transformer.kv_elements_per_token == 2 * 2 * 64


def test_a_known_type_is_read_by_its_family(tmp_path: Path) -> None:
    """And the exact bytes of its files count, without those of layers that only guess."""
    config = {**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    ahead = {f"model.layers.3.{name}": shape for name, shape in mlp().items()}
    size = write(tmp_path / "model.safetensors", DENSE | ahead)
    model = load_model(tmp_path)
    assert model.structure is None
    assert model.weight_bytes == size - 2 * elements(ahead)
    assert any("multi-token prediction, which is not loaded" in note for note in model.transformer.notes)


def test_a_tower_nobody_described_is_loaded(tmp_path: Path) -> None:
    """Of a known type too: its weights stand in the files."""
    config = {**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vision_tower": "some/thing"}))
    tower = {f"vision_tower.blocks.{i}.attn.qkv.weight": (96, 32) for i in range(2)}
    write(tmp_path / "model.safetensors", DENSE | tower)
    model = load_model(tmp_path).transformer
    assert [(t.name, t.parameters, t.bits) for t in model.towers] == [("vision tower", elements(tower), 16.0)]
    assert not any("only the language model" in note or "the files hold" in note for note in model.notes[:-1])


def test_sizes_in_a_params_json(tmp_path: Path) -> None:
    """Files as Mistral and Meta publish them."""
    names = {
        "attention.wq.weight": (512, 256),
        "attention.wk.weight": (128, 256),
        "attention.wv.weight": (128, 256),
        "attention.wo.weight": (256, 512),
        "feed_forward.w1.weight": (1024, 256),
        "feed_forward.w2.weight": (256, 1024),
        "feed_forward.w3.weight": (1024, 256),
        "attention_norm.weight": (256,),
        "ffn_norm.weight": (256,),
    }
    shapes = {"tok_embeddings.weight": (1000, 256), "norm.weight": (256,), "output.weight": (1000, 256)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(2) for name, shape in names.items()}
    write(tmp_path / "consolidated.safetensors", shapes)
    sizes = {"dim": 256, "n_layers": 2, "head_dim": 64, "hidden_dim": 1024, "n_heads": 8, "n_kv_heads": 2}
    (tmp_path / "params.json").write_text(json.dumps(sizes))
    model = load_model(tmp_path)
    assert model.transformer.parameters() == elements(shapes)
    assert model.transformer.kv_elements_per_token == 2 * 2 * 2 * 64
    assert model.structure is not None and model.structure.unknown == 0


def test_files_of_another_size_than_the_config_says(tmp_path: Path) -> None:
    """The files' size counts, and is said: here FP8 projections with scales nobody needs to know."""
    config = {**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3}
    quantised = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
    (tmp_path / "config.json").write_text(json.dumps(config | quantised))
    packed = {name: "F8_E4M3" for name in DENSE if "proj" in name}
    scales = {f"{name}_extra": (500, 500) for name in packed}
    size = write(tmp_path / "model.safetensors", DENSE | scales, packed | dict.fromkeys(scales, "F8_E4M3"))
    model = load_model(tmp_path)
    assert model.weight_bytes == size
    assert any("what the files hold counts" in note for note in model.transformer.notes)


INDEX = {name: f"model-0000{1 + ('layers.2' in name)}-of-00002.safetensors" for name in DENSE}


def index(folder: Path, total: int, names: Mapping[str, str] = INDEX) -> None:
    content = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_an_index_without_its_files_of_a_known_type(tmp_path: Path) -> None:
    """Its total is the size of the weights; one that cannot be this model's is not believed."""
    config = {**SIZES, "model_type": "qwen3", "intermediate_size": 1024, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    index(tmp_path, 2 * elements(DENSE) + 1000)
    assert load_model(tmp_path).weight_bytes == 2 * elements(DENSE) + 1000
    index(tmp_path, 20 * elements(DENSE))
    model = load_model(tmp_path)
    assert model.weight_bytes is None
    assert "are not this model's" in model.transformer.notes[-1]


def test_an_index_without_its_files_of_an_unknown_type(tmp_path: Path) -> None:
    """Names say what parts there are, the config their sizes, and the total whether that is all."""
    config = {**SIZES, "model_type": "new_x", "intermediate_size": 1024, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    index(tmp_path, 2 * elements(DENSE))
    model = load_model(tmp_path)
    assert model.transformer.parameters() == elements(DENSE)
    assert "explain 100.0% of the bytes" in model.transformer.notes[0]
    index(tmp_path, 3 * elements(DENSE))
    with pytest.raises(InputError, match="explain 6"):
        load_model(tmp_path)
    assert load_model(tmp_path, generic=True).structure is not None
    index(tmp_path, 2 * elements(DENSE), INDEX | {"model.layers.1.mixer.A_log": "model-00001-of-00002.safetensors"})
    with pytest.raises(InputError, match=r"mixer.A_log .* put the first weight file beside it"):
        load_model(tmp_path)


def test_one_of_two_files_is_enough(tmp_path: Path) -> None:
    """Layers that are not there are like those that are."""
    (tmp_path / "config.json").write_text('{"model_type": "new_x"}')
    index(tmp_path, 2 * elements(DENSE))
    first = {name: shape for name, shape in DENSE.items() if INDEX[name].startswith("model-00001")}
    write(tmp_path / "model-00001-of-00002.safetensors", first)
    model = load_model(tmp_path)
    assert model.weight_bytes == 2 * elements(DENSE)
    assert model.transformer.parameters() == elements(DENSE)
    assert any("1 of 2 weight files are not there; 11 tensors" in note for note in model.transformer.notes)


def test_packed_weights_of_an_unknown_type(tmp_path: Path) -> None:
    """GPTQ packs inputs, AWQ outputs, NVFP4 two in a byte: all are the same model."""
    config = {"model_type": "new_x", "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    for method in ("gptq", "awq", "nvfp4"):
        shapes: Shapes = {}
        dtypes: dict[str, str] = {}
        for name, shape in DENSE.items():
            base = name.removesuffix(".weight")
            outer, inner = (*shape, 0)[:2]
            if "proj" not in name:
                shapes[name] = shape
            elif method == "nvfp4":
                shapes |= {name: (outer, inner // 2), f"{name}_scale": (outer, inner // 16)}
                dtypes |= {name: "U8", f"{name}_scale": "F8_E4M3"}
            else:
                packed = (inner // 8, outer) if method == "gptq" else (inner, outer // 8)
                shapes |= {f"{base}.qweight": packed, f"{base}.scales": (inner // 32, outer)}
                dtypes |= {f"{base}.qweight": "I32", f"{base}.scales": "F16"}
        config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32}
        (tmp_path / "config.json").write_text(json.dumps(config))
        size = write(tmp_path / "model.safetensors", shapes, dtypes)
        model = load_model(tmp_path)
        assert model.transformer.parameters() == elements(DENSE)
        assert model.weight_bytes == size
        assert "4" in model.transformer.native_weights


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"w": (4, 4)}, "no table of token embeddings among 1 of them .*config.json"),
        ({"model.embed_tokens.weight": (10, 4)}, "no numbered layers"),
        ({"a.embed_tokens.weight": (10, 4), "a.layers.0.lora_A.weight": (4, 4)}, "adapter"),
        ({k: v for k, v in DENSE.items() if "layers.1" not in k}, "layer 1 of 3 is not in the files"),
        ({"a.embed_tokens.weight": (10, 4), "a.layers.99999.x": (4, 4)}, "at most 10,000"),
        ({"a.embed_tokens.weight": (2**40, 2)}, "expected at most 8 sizes"),
        ({"a.embed_tokens.weight": (0, 0), "a.layers.0.x": (4, 4)}, "no table of token embeddings"),
        ({"shared.weight": (10, 4), "encoder.layers.0.x": (4, 4), "decoder.layers.0.x": (4, 4)}, "an encoder and a"),
        ({"a.embed_tokens.weight": (10, 4), "a.layers.0.x\n\x1b[31m": (4, 4)}, "not understood"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(shapes: Shapes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(shapes)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": "x", "num_experts_per_tok": [], "layer_types": 7, "sliding_window": -1},
        {"head_dim": 10**30, "num_hidden_layers": 0, "hidden_size": {}, "rope_parameters": 3},
        {"quantization_config": {"bits": "four", "quant_method": 3}, "attn_type_list": [1]},
        {"hidden_act": ["x"], "max_position_embeddings": 1e400, "per_layer_config": {"0": 1}},
        {"model_type": None, "text_config": 5, "num_attention_heads_per_layer": ["a", "b", "c"]},
    ],
)
def test_odd_configs_are_no_crash(config: dict[str, Any]) -> None:
    """Shapes stand; keys of another type than theirs are as good as absent."""
    with suppress(InputError):
        assert read(DENSE, config)[0].parameters() == elements(DENSE)


def _names() -> Iterator[tuple[str, str, str]]:
    yield "model.layers.3.mlp.experts.17.down_proj.weight", "expert", "down"
    yield "transformer.h.0.attn.c_attn.weight", "attn", "qkv"
    yield "transformer.h.0.mlp.c_proj.weight", "mlp", "down"
    yield "model.layers.0.block_sparse_moe.experts.w1.weight", "expert", "up"
    yield "model.layers.0.mlp.shared_expert_gate.weight", "shared", "gate"
    yield "model.layers.0.mlp.gate.e_score_correction_bias", "router", "bias"
    yield "backbone.layers.0.mixer.in_proj.weight", "mixer", "in"
    yield "model.layers.0.self_attn.indexer.wq_b.weight", "self_attn", "index_q"
    yield "layers.0.attention.wo.weight", "attention", "o"
    yield "model.layers.0.feed_forward.w2.weight", "mlp", "down"


@pytest.mark.parametrize(("name", "group", "role"), [*_names()])
def test_names(name: str, group: str, role: str) -> None:
    assert role_of(place_of(name).path) == (group, role)


def test_a_refused_type_is_read_when_asked(tmp_path: Path) -> None:
    """The reason, and that its tensors can be read all the same."""
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    write(tmp_path / "model.safetensors", DENSE)
    with pytest.raises(
        InputError, match=r"config.json: model_type: 'xlnet' is not read: .*--generic reads it from its"
    ):
        load_model(tmp_path)
    assert load_model(tmp_path, generic=True).transformer.parameters() == elements(DENSE)


def test_an_unknown_type_without_tensors_names_the_nearest_family() -> None:
    """And says how it can be read all the same."""
    with pytest.raises(UnknownName, match=r"kimi_k2.*weight files.*--generic") as caught:
        read_config({**SIZES, "model_type": "kimi_k3"})
    assert caught.value.exit_code == 2


def test_a_superscript_in_a_name_is_no_number() -> None:
    assert (place_of("model.layers.²").layer, place_of("model.layers.3.experts.².w1.weight").expert) == (-1, -1)
