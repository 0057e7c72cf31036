provider = None
