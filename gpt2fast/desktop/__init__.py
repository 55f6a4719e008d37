"""`gpt2fast write`: a small window to write in, with GPT-2 at hand. Needs the extra `desktop`.

What needs no window is apart from what does:

    settings, prompt, offers, spans, colours, pace, textfile    plain functions and values
    writer      the thread that loads and generates, and what it reports
    editor, panel, window and the rest    PySide6
"""
