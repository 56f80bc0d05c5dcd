"""Reads the page of a gallery, for tests."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image


class Page(HTMLParser):
    """The headings, pictures and captions of a page, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.captions, self.pictures = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            kind, encoded = dict(attrs)["src"].split(",")
            assert kind == "data:image/jpeg;base64"  # nothing is loaded from elsewhere
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
                self.pictures.append(np.asarray(picture))
        if tag == "figcaption":
            self.captions.append([])

    def handle_data(self, text):
        if self.tags[-1:] == ["h2"] and text.strip():
            self.headings.append(text)
        if self.tags[-1:] in (["figcaption"], ["br"]) and text.strip():
            self.captions[-1].append(text)
