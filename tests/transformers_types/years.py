"""The year in which the code of every type of transformers was written, as its files or its page state it."""

from __future__ import annotations

from collections.abc import Mapping

#: Types of this year or later are young.
YOUNG = 2023
_NAMES: Mapping[int, str] = {
    2018: """
        bert camembert ctrl electra encoder-decoder gpt2 megatron-bert openai-gpt roberta t5 xlm-roberta
        xlm-roberta-xl xlnet
    """,
    2019: """
        fsmt xlm
    """,
    2020: """
        bert-generation mt5 prophetnet reformer
    """,
    2021: """
        bart big_bird bigbird_pegasus blenderbot blenderbot-small gpt_neo gptj led m2m_100 marian mbart
        pegasus rembert roformer speech-encoder-decoder speech_to_text trocr vision-encoder-decoder xglm
    """,
    2022: """
        biogpt blip bloom codegen data2vec-text ernie git gpt-sw3 gpt_neox gpt_neox_japanese longt5 mvp opt
        pegasus_x plbart roberta-prelayernorm roc_bert switch_transformers whisper
    """,
    2023: """
        blip-2 cpmant falcon fuyu gpt_bigcode idefics instructblip kosmos-2 llama llava mistral mixtral mpt
        musicgen nllb-moe persimmon phi pix2struct pop2piano rwkv seamless_m4t seamless_m4t_v2 speecht5 umt5
        vipllava xmod
    """,
    2024: """
        aria aria_text bamba chameleon cohere cohere2 dbrx diffllama emu3 falcon_mamba gemma gemma2 glm
        got_ocr2 granite granitemoe granitemoeshared helium idefics2 idefics3 instructblipvideo jamba jetmoe
        llava_next llava_next_video llava_onevision mamba mamba2 mllama moshi musicgen_melody nemotron
        nemotron_h olmo olmo2 olmoe paligemma phi3 phimoe qwen2 qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_moe
        recurrent_gemma stablelm starcoder2 udop video_llava zamba zamba2
    """,
    2025: """
        afmoe apertus arcee audioflamingo3 aya_vision bitnet blt cohere2_vision cwm deepseek_v2 deepseek_v3
        deepseek_v32 deepseek_vl deepseek_vl_hybrid dia doge dots1 ernie4_5 ernie4_5_moe ernie4_5_vl_moe
        evolla exaone4 falcon_h1 fast_vlm flex_olmo florence2 gemma3 gemma3_text gemma3n gemma3n_text glm4
        glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glmasr gpt_oss granite_speech granitemoehybrid
        hunyuan_v1_dense hunyuan_v1_moe internvl jais2 janus kosmos-2.5 kyutai_speech_to_text lfm2 lfm2_moe
        lfm2_vl llama4 llama4_text longcat_flash minimax minimax_m2 ministral ministral3 mistral3
        modernbert-decoder moonshine nanochat nemotron_h_omni olmo3 ovis2 paddleocr_vl perception_lm
        phi4_multimodal pi0 qwen2_5_omni qwen2_5_omni_thinker qwen2_5_vl qwen3_5 qwen3_5_moe qwen3_5_moe_text
        qwen3_5_text qwen3_next qwen3_omni_moe qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe seed_oss
        shieldgemma2 smollm3 smolvlm t5gemma t5gemma2 vaultgemma video_llama_3 voxtral voxtral_realtime xlstm
    """,
    2026: """
        apertus1p5 apertus1p5_text axk1 axk2 bailing_hybrid beam canary cohere2_moe cohere_asr cohere_compass
        cohere_compass_text cosmos3_edge cosmos3_omni deepseek_ocr2 deepseek_v4 diffusion_gemma dory
        dots3_note dots3_note_text exaone exaone4_5 exaone_moe flint fun_asr_nano gemma4 gemma4_assistant
        gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text glm5_next glm_moe_dsa glm_ocr
        glmga granite4_vision granite_docling granite_speech_plus granite_swa granitemoe_swa hrm_text
        hunyuan_vl hy_v3 hy_v4 hy_v4_vl hyperclovax hyperclovax_vision_v2 inkling2 inkling2_loop
        inkling2_loop_text inkling2_text inkling_mm_model inkling_text internlm3 iquestcoder kimi_k25
        kimi_linear kolibri1 laguna lara_mini lfm3 lfm3_vl lighton_ocr mellum mimo_v2_flash minicpm3
        minicpm_ocr minicpmv4_6 minicpmv4_7 minimax_m3_vl minimax_m3_vl_text mistral4 mistral_large4 molmo2
        moonshine_streaming moss_transcribe_diarize muse_glimmer muse_spark musicflamingo nemo_speechlm
        olmo_hybrid omniasr pp_chart2table pp_formulanet qianfan_ocr qwen3_asr qwen4_exp qwen4_exp_text
        sarvam_mla sarvam_moe solar_open step3p7 unlimited_ocr vibevoice vibevoice_asr youtu zaya
    """,
}
#: ``model_type`` -> year.
YEARS: Mapping[str, int] = {name: year for year, names in _NAMES.items() for name in names.split()}
