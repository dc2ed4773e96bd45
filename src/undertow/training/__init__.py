"""Fine-tuning through transformers.Trainer and peft."""
