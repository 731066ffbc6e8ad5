"""Files of trained models: writer and reader of a format side by side."""
