"""The kernel's switches and reports: small files under /sys."""


def read_text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def write_line(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
