"""A trained run taken elsewhere: other formats, model cards, the Hugging Face hub, the published code's files."""
