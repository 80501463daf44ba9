from tertuliad.entry import main

main()
