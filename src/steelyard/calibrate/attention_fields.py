"""Which numbers of the attention models are fitted, and between which bounds."""

from __future__ import annotations

__all__ = ["FACT_FIELDS", "HARDWARE_FIELDS"]

#: Hardware parameters that are fitted, per phase, with their bounds.
HARDWARE_FIELDS: dict[str, dict[str, tuple[float, float]]] = {
    "decode": {
        "launch_clocks": (1e3, 1e5),
        "item_s": (1e-7, 3e-5),
        "item_dim_frac": (0.02, 1.0),
        "row_s": (1e-10, 3e-7),
        "combine_s": (2e-7, 2e-5),
        "matrix_frac": (0.2, 1.0),
        "dram_frac": (0.5, 0.97),
        "l2_frac": (0.1, 1.0),
        "hot_frac": (0.15, 1.2),
        "overlap_power": (1.0, 12.0),
        "in_flight": (1.0, 4.0),
        "wave_hardness": (0.02, 1.0),
    },
    "prefill": {
        "launch_clocks": (1e3, 1e5),
        "item_s": (1e-7, 3e-5),
        "item_fixed_frac": (0.1, 1.0),
        "item_overlap": (1.0, 5.0),
        "matrix_frac": (0.3, 1.0),
        "exp_frac": (0.3, 3.0),
        "tail_frac": (0.03, 1.0),
        "dram_frac": (0.4, 0.97),
        "l2_frac": (0.1, 1.0),
        "overlap_power": (1.0, 10.0),
        "cache_write_s": (5e-8, 5e-6),
    },
    "mla": {
        "item_s": (3e-7, 5e-5),
        "combine_s": (3e-7, 6e-5),
        "matrix_frac": (0.3, 1.0),
        "dram_frac": (0.5, 0.97),
        "l2_frac": (0.05, 1.0),
        "overlap_power": (1.2, 10.0),
        "wave_hardness": (0.02, 1.0),
    },
}

_FP8 = {"fp8_token_clocks": (0.1, 300.0), "fp8_dim_exponent": (0.3, 2.5)}
_PREFILL_FP8 = {
    "prefill_fp8_token_clocks": (0.05, 300.0),
    "prefill_fp8_dim_exponent": (0.3, 2.5),
    "cache_write_fp8_ratio": (0.2, 4.0),
    "cache_write_fp8_loop_frac": (0.02, 1.5),
}
_RATIO = (0.15, 7.0)
#: Numbers of a software kernel that are fitted over all machines that ran it, with bounds.
FACT_FIELDS: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "decode": {
        "fa2": {"wide_group_frac": (0.01, 2.0), "combine_ratio": _RATIO, "row_ratio": _RATIO},
        "fa3": {
            **_FP8,
            "fp8_extra_s": (1e-8, 1e-5),
            "sequence_s": (1e-9, 2e-7),
            "window_item_s": (1e-8, 1e-5),
            "wide_group_frac": (0.01, 2.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "flashinfer": {
            **_FP8,
            "wide_group_frac": (0.01, 2.0),
            "items_per_slot": (1.0, 4.0),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "trtllm": {
            **_FP8,
            "fp8_extra_s": (1e-8, 1e-5),
            "wide_group_frac": (0.01, 2.0),
            "items_per_slot": (1.0, 4.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
        "triton": {
            "fp8_token_clocks": (0.1, 300.0),
            "items_per_slot": (0.05, 6.0),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
        },
        "fa4_large_head": {
            "items_per_slot": (0.02, 4.0),
            "sequence_s": (1e-9, 1e-5),
            "launch_ratio": (0.5, 3.0),
            "combine_ratio": _RATIO,
            "row_ratio": _RATIO,
        },
    },
    "prefill": {
        "fa2": {"prefill_window_item_s": (1e-8, 1e-5)},
        "fa3": {
            **_PREFILL_FP8,
            "prefill_fp8_extra_s": (1e-8, 1e-5),
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
        },
        "flashinfer": {
            **_PREFILL_FP8,
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.3, 3.0),
        },
        "trtllm": {
            **_PREFILL_FP8,
            "prefill_exp_ratio": (0.05, 4.0),
            "prefill_matrix_ratio": (0.3, 1.02),
            "prefill_window_item_s": (1e-8, 1e-5),
            "prefill_item_ratio": _RATIO,
            "prefill_large_dim_ratio": (0.8, 4.0),
        },
        "triton": {
            "prefill_fp8_token_clocks": (0.05, 3000.0),
            "prefill_matrix_ratio": (0.01, 1.0),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.5, 3.0),
        },
        "fa4_large_head": {
            "prefill_matrix_ratio": (0.05, 1.0),
            "prefill_item_ratio": _RATIO,
            "prefill_launch_ratio": (0.5, 3.0),
        },
    },
    "mla": {
        "fa3_mla": {"token_s": (1e-10, 1e-7)},
        "flash_mla": {"matrix_ratio": (0.3, 1.3), "token_s": (1e-10, 1e-7)},
        "trtllm_mla": {"token_s": (1e-10, 1e-7), "narrow_again_frac": (0.01, 1.0)},
        "triton_mla": {"matrix_ratio": (0.03, 1.0), "token_s": (1e-10, 1e-7)},
        "triton_mla_0_14": {"matrix_ratio": (0.03, 1.0), "token_s": (1e-10, 1e-7)},
    },
}
