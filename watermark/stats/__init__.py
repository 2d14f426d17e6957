"""An island of statistics: numpy and scipy alone. It knows no watermark, no text and no model."""
