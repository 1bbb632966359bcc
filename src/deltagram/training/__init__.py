"""Fine-tuning and its measurement; torch and transformers are imported when a function needs them."""
