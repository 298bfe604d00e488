from lofit.cli import main

main()
