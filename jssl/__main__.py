from jssl.main import run

run()
