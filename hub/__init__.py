"""The Hugging Face Hub: who asks, what is there, headers, files, publishing. Never tensor values."""
