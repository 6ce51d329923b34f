"""Readers of model files: Hugging Face folders, safetensors and GGUF headers. They parse data and execute nothing."""
