"""Floor 4: the page. It collects and shows; whatever a test needs no browser for lives in `forms` and `render`."""
