"""Fine-tuning on one's own pairs of pictures and captions, and measuring whether it helped.

`pairs` reads them, `check` looks at them before time is spent, `evaluation` measures retrieval, `classify` and
`probe` name what is in a picture. Only the training itself needs PyTorch.
"""
