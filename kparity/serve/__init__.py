"""An HTTP server of OpenAI's kind in front of the backend that passed its probe."""
