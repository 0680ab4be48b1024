"""The arena: ask a chatbot for an audio encoder, check the encoder in a sandbox, keep what came back."""
