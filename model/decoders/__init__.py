"""Caption decoders: networks that write a caption word by word."""
