"""TFLite: exporter and LiteRT."""
